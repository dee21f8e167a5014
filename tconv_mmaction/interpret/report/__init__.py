"""One clip and one network as a page: the analysis, and the HTML of it."""
from .clip_analysis import ChannelReport, ClipAnalysis, analyse_clip
from .page import ClipReport, ModelInfo, render_report

__all__ = ['ChannelReport', 'ClipAnalysis', 'ClipReport', 'ModelInfo', 'analyse_clip', 'render_report']
